"""Word lists for `puna.data.spam`: what adverts and adult pages say, by language. Data only; every entry may be one word or a phrase.

Written for this project. ADVERTS holds selling phrases and the goods that unwanted pages sell; DIRTY holds the words of adult pages, the
mild forms included, because it is their density that counts and not one occurrence (Raffel et al. 2020 dropped on one).
"""

from __future__ import annotations

ADVERTS = {
    "en": """buy now; order now; shop now; click here; sign up now; act now; call now; limited offer; limited time; special offer; best price;
        best prices; lowest price; lowest prices; low price; great deals; best deals; hot deals; free shipping; free trial; free bonus;
        free gift; free; money back; risk free; no risk; 100 free; satisfaction guaranteed; guaranteed; guarantee; discount; discounts; coupon;
        coupons; voucher; promo; promo code; bonus; jackpot; casino; casinos; poker; roulette; slots; betting; bet; lottery; winner;
        you won; win; prize; prizes; cash; earn money; make money; easy money; fast cash; extra income; get rich; work from home; loan; loans;
        payday; credit; credit score; mortgage; refinance; debt; investment; bitcoin; crypto; forex; pills; viagra; cialis; pharmacy;
        weight loss; lose weight; diet; slim; miracle; replica; replicas; rolex; handbags; cheap; cheapest; sale; for sale; clearance;
        wholesale; offer; offers; deal; deals; hurry; don't miss; while stocks last; subscribe; unsubscribe; dating; singles; seo; backlinks;
        followers; instant; instantly; exclusive; amazing; incredible; unbeatable; save up to; 50 off; 70 off; 90 off; today only;
        last chance; click; download; order; buy; purchase; price; prices; online; luxury; watches; insurance; offer ends; secret; gift""",
    "de": """jetzt kaufen; jetzt bestellen; hier klicken; klicken sie hier; klick hier; nur heute; nur für kurze zeit; angebot; angebote;
        sonderangebot; bester preis; beste preise; bestpreis; günstig; billig; am billigsten; gratis; kostenlos; umsonst; versandkostenfrei;
        rabatt; rabatte; gutschein; gutscheine; gutscheincode; bonus; jackpot; casino; kasino; poker; roulette; wetten; lotto; lotterie; gewinn;
        gewinner; gewinnen; sie haben gewonnen; preis; preise; geld verdienen; schnelles geld; geld; reich werden; kredit; kredite; sofortkredit;
        darlehen; schufa; hypothek; schulden; bitcoin; krypto; viagra; pillen; apotheke; abnehmen; diät; wunder; wundermittel; replika; uhren;
        schnäppchen; ausverkauf; verkauf; kaufen; bestellen; garantie; garantiert; geld zurück; ohne risiko; exklusiv; einmalig; unglaublich;
        letzte chance; nicht verpassen; zuschlagen; sofort; online; versicherung; luxus; abonnieren; partnersuche; singles; sparen; sie sparen""",
    "fr": """achetez maintenant; acheter; achetez; commandez maintenant; commandez; cliquez ici; cliquez; offre spéciale; offre limitée; offre; offres;
        meilleur prix; meilleurs prix; prix; pas cher; moins cher; bon marché; gratuit; gratuits; gratuite; livraison gratuite; promo; promotion;
        promotions; solde; soldes; remise; réduction; réductions; code promo; bon plan; bonus; jackpot; casino; poker; roulette; paris; loterie;
        gagnant; gagnez; gagner; vous avez gagné; cadeau; argent; argent facile; gagner de l'argent; devenir riche; crédit; prêt; prêts;
        crédit rapide; hypothèque; dette; bitcoin; crypto; viagra; pilules; pharmacie; maigrir; minceur; perdre du poids; régime; miracle;
        réplique; montres; luxe; garanti; garantie; satisfait ou remboursé; sans risque; exclusif; exclusive; incroyable; dernière chance;
        dépêchez-vous; ne manquez pas; aujourd'hui seulement; maintenant; en ligne; assurance; abonnez-vous; rencontres; célibataires""",
    "it": """compra ora; compra subito; acquista ora; acquista; compra; ordina ora; ordina subito; ordina; clicca qui; clicca; offerta; offerte;
        offerta speciale; offerta limitata; miglior prezzo; migliori prezzi; prezzo; prezzi; economico; economici; a buon mercato; gratis;
        gratuito; gratuita; spedizione gratuita; sconto; sconti; buono sconto; coupon; codice sconto; promozione; promozioni; saldi; bonus;
        jackpot; casinò; casino; poker; roulette; scommesse; lotteria; vincitore; vinci; vincere; hai vinto; premio; premi; soldi; soldi facili;
        guadagna; guadagnare; diventa ricco; prestito; prestiti; credito; mutuo; debiti; bitcoin; cripto; viagra; pillole; farmacia; dimagrire;
        dimagrisci; dieta; miracolo; miracolosa; replica; repliche; orologi; lusso; garantito; garantita; garanzia; soddisfatti o rimborsati;
        senza rischi; esclusivo; esclusiva; incredibile; ultima occasione; ultima possibilità; affrettati; non perdere; solo oggi; subito;
        online; assicurazione; iscriviti; incontri; single""",
    "pt": """compre agora; compre já; compre; comprar; peça agora; peça já; encomende; clique aqui; clique; oferta; ofertas; oferta especial;
        oferta limitada; melhor preço; melhores preços; preço; preços; barato; baratos; mais barato; grátis; de graça; gratuito; frete grátis;
        desconto; descontos; cupom; cupão; código promocional; promoção; promoções; liquidação; bônus; bónus; jackpot; cassino; casino; pôquer;
        poker; roleta; apostas; aposta; loteria; ganhador; vencedor; ganhe; ganhar; você ganhou; prêmio; prémio; prêmios; dinheiro; dinheiro fácil;
        dinheiro rápido; ganhe dinheiro; fique rico; renda extra; empréstimo; empréstimos; crédito; hipoteca; dívida; dívidas; bitcoin; cripto;
        viagra; pílulas; comprimidos; farmácia; emagrecer; emagreça; perder peso; dieta; milagre; milagroso; réplica; réplicas; relógios; luxo;
        garantido; garantida; garantia; satisfação garantida; sem risco; exclusivo; exclusiva; incrível; última chance; últimas unidades;
        corra; não perca; só hoje; agora mesmo; agora; online; seguro; assine; encontros; solteiros""",
    "es": """compra ahora; compre ahora; compra ya; compra; compre; comprar; pide ahora; pida ahora; ordene ahora; haz clic aquí; haga clic; clic;
        haz clic; oferta; ofertas; oferta especial; oferta limitada; mejor precio; mejores precios; precio; precios; barato; baratos; más barato;
        gratis; gratuito; envío gratis; descuento; descuentos; cupón; cupones; código promocional; promoción; promociones; rebajas;
        liquidación; bono; bonos; jackpot; casino; casinos; póker; poker; ruleta; apuestas; apuesta; lotería; ganador; gana; ganar; has ganado;
        usted ha ganado; premio; premios; dinero; dinero fácil; dinero rápido; gana dinero; hazte rico; préstamo; préstamos; crédito; créditos;
        hipoteca; deuda; deudas; bitcoin; cripto; viagra; pastillas; píldoras; farmacia; adelgazar; adelgaza; perder peso; dieta; milagro;
        milagroso; réplica; réplicas; relojes; lujo; garantizado; garantizada; garantía; satisfacción garantizada; sin riesgo; exclusivo;
        exclusiva; increíble; última oportunidad; corre; no te lo pierdas; no se lo pierda; solo hoy; sólo hoy; ahora; en línea; online;
        seguro; suscríbete; citas; solteros""",
    "hi": """अभी खरीदें; अभी ख़रीदें; खरीदें; ख़रीदें; खरीदो; यहाँ क्लिक करें; यहां क्लिक करें; क्लिक करें; क्लिक; अभी ऑर्डर करें; ऑर्डर करें; ऑर्डर; ऑफर; ऑफ़र; सीमित ऑफर; विशेष ऑफर; विशेष छूट; छूट; भारी छूट;
        डिस्काउंट; कूपन; सेल; सस्ता; सस्ती; सस्ते; सबसे सस्ता; कम कीमत; सबसे कम दाम; दाम; कीमत; मुफ्त; मुफ़्त; फ्री; बोनस; इनाम; पुरस्कार; जीतें; जीतिए; जीतो; आपने जीता; लॉटरी; कैसीनो;
        जुआ; सट्टा; पोकर; जैकपॉट; पैसा; पैसे; पैसे कमाएं; पैसे कमाएँ; कमाई; कमाएं; कमाएँ; अमीर; अमीर बनें; लोन; ऋण; कर्ज; कर्ज़; क्रेडिट; बिटकॉइन; वियाग्रा; गोलियां; गोलियाँ; दवा; वजन घटाएं;
        वज़न घटाएँ; वजन; चमत्कारी; गारंटी; पक्की गारंटी; बिना जोखिम; तुरंत; जल्दी करें; जल्दी; आज ही; केवल आज; सिर्फ आज; आखिरी मौका; आख़िरी मौका; मौका न चूकें; घर बैठे; ऑनलाइन; बीमा; घड़ियां; लक्जरी""",
    "th": """ซื้อเลย; ซื้อ เลย; ซื้อทันที; ซื้อตอนนี้; สั่งซื้อ; สั่งเลย; สั่งซื้อเลย; คลิกที่นี่; คลิก; คลิกเลย; โปรโมชั่น; โปร; ข้อเสนอ; ข้อเสนอพิเศษ; พิเศษ; จำกัดเวลา; เวลาจำกัด; ราคาถูก; ถูก; ถูกที่สุด; ราคา; ราคาพิเศษ;
        ลดราคา; ส่วนลด; คูปอง; ฟรี; ส่งฟรี; จัดส่งฟรี; แจกฟรี; โบนัส; แจ็คพอต; แจ็กพอต; คาสิโน; บาคาร่า; สล็อต; โป๊กเกอร์; รูเล็ต; พนัน; แทงบอล; หวย; ลอตเตอรี่; เดิมพัน; รางวัล; ของรางวัล; ผู้โชคดี; ชนะ; เงิน; เงินด่วน; หาเงิน;
        รายได้เสริม; รายได้; รวย; รวยเร็ว; เงินกู้; สินเชื่อ; กู้เงิน; กู้; เครดิต; บิตคอยน์; คริปโต; ไวอากร้า; ยาลดน้ำหนัก; ลดน้ำหนัก; ยา; ลดความอ้วน; ปาฏิหาริย์; รับประกัน; การันตี; ไม่มีความเสี่ยง; ด่วน; รีบเลย; รีบ; อย่าพลาด; วันนี้เท่านั้น;
        โอกาสสุดท้าย; ออนไลน์; สมัครเลย; สมัครวันนี้; ประกัน; นาฬิกา; หรูหรา; แบรนด์เนม; กระเป๋า; ขาย""",
}

DIRTY = {
    "en": """porn; porno; xxx; sex; sexy; nude; nudes; naked; milf; hentai; escort; escorts; fetish; hardcore; erotic; horny; pussy; cock; dick;
        tits; boobs; ass; slut; whore; fuck; fucking; blowjob; cum; anal; webcam girls; camgirl; onlyfans leak; orgasm; bitch; shit""",
    "de": """porno; pornos; sex; sexy; nackt; nackte; fick; ficken; titten; schlampe; nutte; hure; schwanz; muschi; geil; geile; erotik; fotze;
        arsch; scheiße; sexkontakte; orgasmus""",
    "fr": """porno; sexe; sexy; nue; nues; baise; baiser; salope; pute; bite; chatte; seins; érotique; cul; putain; merde; escort; orgasme; coquine""",
    "it": """porno; sesso; sexy; nuda; nude; scopare; troia; puttana; cazzo; figa; tette; erotico; culo; merda; escort; orgasmo; vaffanculo""",
    "pt": """pornô; porno; sexo; sexy; nua; nuas; foder; puta; vadia; caralho; buceta; peitos; erótico; bunda; cu; merda; acompanhantes; orgasmo""",
    "es": """porno; sexo; sexy; desnuda; desnudas; follar; puta; zorra; polla; coño; tetas; erótico; culo; mierda; escorts; orgasmo; joder""",
    "hi": """पोर्न; सेक्स; सेक्सी; नंगी; नंगा; चुदाई; रंडी; लंड; चूत; अश्लील; कामुक; गांड""",
    "th": """โป๊; หนังโป๊; เซ็กส์; เซ็กซี่; เปลือย; เย็ด; ควย; หี; กะหรี่; คลิปหลุด; หื่น; เงี่ยน""",
}
